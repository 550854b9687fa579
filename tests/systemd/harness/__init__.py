"""What the tests under a real systemd stand on: namespaces, a machine that boots, pgtandem on it, clients.

Nothing in here knows a test. Nothing in here sleeps for a fixed time where a condition can be polled.
"""
