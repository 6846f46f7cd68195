"""Keys in every form that JOSE and X.509 give them, read and written. Pure: bytes in, bytes out.

The core (``rotator.keys``) knows the keys that rotator rotates; this room knows the rest of the world's, too.
"""
