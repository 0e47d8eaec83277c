"""Costs that grow: with what waits, with what is known, with what is connected."""
