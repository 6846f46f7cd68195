"""Real verifiers, long-lived, led across rotations, a change of algorithm and a revoke: ``python -m tests.clients``."""
