"""The engine: sessions, their event logs and their subscribers; knows no HTTP."""
