"""Homes of private keys: one file per kind. A new one is a file here and a line in ``app.KEY_STORES``."""
