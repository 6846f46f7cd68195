"""A simulated world around the real plan and the real engine: years of faults, replayed from one seed.

Nothing of the core is written again here. The engine runs as in a daemon; only what it talks to is simulated: stores,
CDN, caches, issuers, clocks, people. Two witnesses watch: the checker asks at each change whether *any* cache that
obeys the policy could reject a token, and a sample of real verifiers verifies tokens as time goes by.
"""
