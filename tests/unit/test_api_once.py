"""What is told again is known, and what is remembered stays bounded."""

from swell.api.once import Once


def test_the_newest_are_known_again_and_the_oldest_are_forgotten() -> None:
    once = Once(10)
    assert all(once.is_first(n) for n in range(30))
    assert not any(once.is_first(n) for n in range(20, 30))
    assert once.is_first(0)
