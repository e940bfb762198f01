"""What an address of ours stands for: aliases first, then the backend that has the user's mailbox.

Pure and unchanging; a file that changed makes another book. An address is looked up as it is, then
without its detail, which the target then takes over (where it has none of its own, so details never
pile up). The alias file asked is that of the domain's route, so a chain may pass through several
files. Which is why faults that no file has alone, loops above all, are found here.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.address_map import AddressMap, AddressMapFaults, MapFault
from mailflow.mail.domain_table import DomainTable
from mailflow.mail.subaddress import add_detail, split_detail

MAX_STEPS = 10  # of one chain of aliases
ONE_OF_OURS = "an address in a domain of the routes; targets elsewhere are not supported yet"
IN_ITS_ROUTE = "addresses in domains whose route names this file"
NO_LOOP = f"a target that leads to a mailbox within {MAX_STEPS} steps; this is a loop or a longer chain"

_NO_ENTRIES = AddressMap()


class AliasLoop(Exception):
    """Aliases lead in a circle, or further than MAX_STEPS: the configuration is wrong, a retry helps once it is not."""


@dataclass(frozen=True, slots=True)
class AddressRules:
    """How the addresses of some domains are read: the files' paths, None for none, and the subaddress separator."""

    aliases: Path | None = None
    user_map: Path | None = None
    subaddress: str = "+"


@dataclass(frozen=True, slots=True)
class AddressBook:
    """The rules of every domain of ours, and what their files say, by path."""

    rules: DomainTable[AddressRules] = field(default_factory=DomainTable)
    maps: Mapping[Path, AddressMap] = field(default_factory=dict)

    def with_maps(self, changed: Mapping[Path, AddressMap]) -> "AddressBook":
        """Give the book as it is with these files' new contents."""
        return replace(self, maps={**self.maps, **changed})

    def strip_detail(self, address: Address) -> Address:
        """Give the user's own address, without a detail."""
        rules = self.rules.find(address.ascii_domain)
        return split_detail(address, rules.subaddress)[0] if rules else address

    def follow_aliases(self, address: Address) -> Address:
        """Give the address that mail for `address` goes to; itself where no alias names it. Raises AliasLoop."""
        for _ in range(MAX_STEPS + 1):
            target = self._find_target(address)
            if target is None:
                return address
            address = target
        raise AliasLoop

    def find_backend(self, address: Address) -> str | None:
        """Give the name of the backend that the map of users gives this user; None where it has none for him."""
        rules = self.rules.find(address.ascii_domain)
        if rules is None or rules.user_map is None:
            return None
        entries = self.maps.get(rules.user_map, _NO_ENTRIES)
        return entries.find(address) or entries.find(split_detail(address, rules.subaddress)[0])

    def check(self, path: Path) -> None:
        """Look at a file in view of the routes and the other files. Raises AddressMapFaults."""
        entries = self.maps[path]
        faults = [fault for key in entries.entries for fault in self._judge(path, entries, key)]
        if faults:
            raise AddressMapFaults(faults)

    def _judge(self, path: Path, entries: AddressMap, key: str) -> Iterator[MapFault]:
        domain = key.rpartition("@")[2]
        rules = self.rules.find(domain)
        if rules is None or path not in (rules.aliases, rules.user_map):
            yield entries.blame(key, IN_ITS_ROUTE)
        if rules is None or path != rules.aliases:
            return
        target = parse_mailbox(entries.entries[key])
        if self.rules.find(target.ascii_domain) is None:
            yield entries.blame(key, ONE_OF_OURS)
        elif self._is_endless(target):
            yield entries.blame(key, NO_LOOP)

    def _is_endless(self, target: Address) -> bool:
        """Tell whether the second and later steps of a chain find no end.

        Walking from every entry is enough: a detail leads elsewhere only where a file names it, which is an entry too.
        """
        for _ in range(MAX_STEPS):
            following = self._find_target(target)
            if following is None:
                return False
            target = following
        return True

    def _find_target(self, address: Address) -> Address | None:
        rules = self.rules.find(address.ascii_domain)
        if rules is None or rules.aliases is None:
            return None
        entries = self.maps.get(rules.aliases, _NO_ENTRIES)
        exact = entries.find(address)
        if exact is not None:
            return _read_target(exact)
        user, detail = split_detail(address, rules.subaddress)
        found = entries.find(user) if user is not address else None
        if found is None:
            return None
        target = _read_target(found)
        target_rules = self.rules.find(target.ascii_domain)
        return add_detail(target, detail, target_rules.subaddress if target_rules else "")


def _read_target(text: str) -> Address:
    """Give the target with its domain in A-labels: whoever wrote to the alias may not have asked for SMTPUTF8."""
    target = parse_mailbox(text)
    return replace(target, domain=target.ascii_domain)


def list_files(paths: Iterable[Path | None]) -> list[Path]:
    """Give each file once, without the places where there is none."""
    return list(dict.fromkeys(path for path in paths if path))
