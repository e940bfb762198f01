"""What is seen from outside: the log, the metrics, and tasks whose failures are not lost.

Never in the way of mail: nothing here blocks the event loop, grows without bound, or raises because
of what it was given to write.
"""
