"""The number of open connections, in all and of each client."""

from collections import Counter

from app.core.client_address import network_of
from app.core.errors import TooManyConnections


class ConnectionLimit:
    """`per_address`: connections of one client, see `network_of`; 0 for any number."""

    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._open = 0
        self._open_of = Counter[str]()

    @property
    def full(self) -> bool:
        return self._open >= self._most

    def acquire(self, address: str) -> None:
        """Count a connection. Raises `TooManyConnections`."""
        if self._open >= self._most:
            raise TooManyConnections(f"{self._most} connections are open already (MAX_CONNECTIONS)")
        if self._per_address:
            network = network_of(address)
            if self._open_of[network] >= self._per_address:
                raise TooManyConnections(
                    f"{self._per_address} connections of your address are open already "
                    "(MAX_CONNECTIONS_PER_ADDRESS)"
                )
            self._open_of[network] += 1
        self._open += 1

    def release(self, address: str) -> None:
        self._open -= 1
        if self._per_address:
            network = network_of(address)
            self._open_of[network] -= 1
            if not self._open_of[network]:
                del self._open_of[network]
