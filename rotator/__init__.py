"""rotator rotates JWT signing keys and publishes a static ``jwks.json``.

No token is ever rejected because of a rotation, whatever crashes, stalls or races:

* a private *ledger* holds facts (timestamps), replaced only by compare-and-swap; stages follow from facts;
* ``keys.plan.plan(ledger, policy, now, observed)`` is pure and returns the next safe step, or the waits;
* the engine observes (pointer, public documents, ledger last), does one step, records it, and asks again;
* a key signs only after every cache that obeys the policy holds it, and leaves only after its tokens ended;
* daemon, CronJob, Lambda and command line all run the same ``tick``.
"""

__version__ = "0.1.0"
