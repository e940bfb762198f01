"""What is at hand is answered, and nothing is asked for the rest."""

import pytest

from mailflow.dns import BudgetedResolver, StubResolver
from mailflow.dns.at_hand import AtHandResolver, NotAtHand
from mailflow.testing import ZoneResolver
from tests.unit.dns.scripted_server import always, serve


async def test_what_was_answered_before_is_at_hand_and_the_rest_is_not_asked() -> None:
    async with serve(always("one")) as server:
        stub = StubResolver([server.address])
        budget = BudgetedResolver(stub, max_queries=1)
        await stub.resolve("x.test", "TXT")
        asked = len(server.queries)
        for resolver in (AtHandResolver(stub), AtHandResolver(budget)):
            assert (await resolver.resolve("x.test", "TXT")).records == (b"one",)
            with pytest.raises(NotAtHand):
                await resolver.resolve("y.test", "TXT")
        assert len(server.queries) == asked
        await budget.resolve("y.test", "TXT")  # the budget was not touched
        await stub.aclose()


@pytest.mark.parametrize("resolver", [ZoneResolver({}), BudgetedResolver(ZoneResolver({}))])
async def test_nothing_is_at_hand_with_a_resolver_that_cannot_tell(
    resolver: ZoneResolver | BudgetedResolver,
) -> None:
    with pytest.raises(NotAtHand):
        await AtHandResolver(resolver).resolve("x.test", "TXT")
