"""One long-lived verifier a file: the library as its documentation shows it, and a line in, a line out."""
