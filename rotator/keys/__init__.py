"""The pure core: keys, their stages, the policy and the plan. No I/O, no clock, no settings, no logging."""
