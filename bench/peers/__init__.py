"""The sidecar beside other programs for the same job, as far as they are here.

A file a program. Each says how it is found, configured and started, so that all take the same
frames and write the same lines into one file. Nothing is installed, and none runs as a service:
they are started on loopback, one at a time.
"""
