"""A framework-free ASGI callable over :mod:`webkit_core`."""
