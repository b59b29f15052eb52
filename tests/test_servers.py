"""Ports that tests hand to servers: one that somebody else takes first fails tests that have nothing to do with it."""

import socket

from tests.servers import BUS_ABOVE, LOWEST_PORT, PORTS_EACH, SHARES, free_port

KERNELS_OWN = 32_768


def test_no_connection_takes_a_port_or_its_bus_before_the_server_does() -> None:
    assert LOWEST_PORT + PORTS_EACH * SHARES + BUS_ABOVE <= KERNELS_OWN
    assert all(LOWEST_PORT <= free_port() < KERNELS_OWN - BUS_ABOVE for _ in range(10))


def test_a_port_is_not_given_twice_in_a_row() -> None:
    given = [free_port() for _ in range(100)]
    assert len(set(given)) == len(given)


def test_a_port_whose_bus_is_taken_is_left_out() -> None:
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 1 + BUS_ABOVE)), socket.create_server(("127.0.0.1", first + 2)):
        assert free_port() not in (first + 1, first + 2)
