"""Wafermon: a monitoring sidecar for hosts that run scripts, and the parts it is made of.

The rooms, in the order of the data path, each with its public names in its `__init__`:
`wafermon.message`, `wafermon.wire`, `wafermon.observe`, `wafermon.flow`, `wafermon.delivery`,
`wafermon.backends`, `wafermon.net`; the SDK for Python programs is `wafermon.client`.
"""

__version__ = "0.1.0"
