"""Administration over HTTP: probes and metrics.

Nothing here changes a running service; it only reports. Probe traffic is not logged.
"""
