"""The process around the workers: sockets, signals, restarts, the admin listener, the order of start and end.

`service` is the supervisor itself, `slot` one worker process and its life, `worker_main` what runs
inside that process, `channel` how the two talk, `sockets` what is bound, `merged_metrics` the sum of
what the workers count, `reload` which keys may change while it runs. No mail passes through here:
a supervisor that is slow costs probes and restarts, not messages.
"""
