"""What the end-to-end tests stand on: processes, a PostgreSQL cluster, the pooler, certificates, raw protocol frames.

Nothing in here knows a test. Nothing in here sleeps for a fixed time where a condition can be polled.
"""
