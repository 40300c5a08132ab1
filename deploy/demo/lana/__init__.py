"""Lana's life, simulated: valid lives of all 33 entities as a stream of transactions."""
from .bank import transactions
from .world import Tx, World

__all__ = ["transactions", "Tx", "World"]
