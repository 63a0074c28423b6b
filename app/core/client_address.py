"""Which addresses count as one client."""

from ipaddress import IPv6Address, ip_address


def network_of(address: str) -> str:
    """Return an IPv4 address as it is, and of IPv6 the 64 bits that one household has.

    What is no address, as a proxy may pass on, counts as one client.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return "unknown"
    if not isinstance(ip, IPv6Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return f"{IPv6Address(int(ip) >> 64 << 64)}/64"
