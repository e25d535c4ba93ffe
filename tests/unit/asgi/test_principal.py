from __future__ import annotations

import pytest

from webkit_asgi import Principal


def test_principal_cannot_be_changed() -> None:
    """It is kept with the request, and its id with the session."""
    with pytest.raises(AttributeError):
        Principal("ann").id = "bob"  # type: ignore[misc]  # what the test is about


def test_principal_lasts_unless_it_says_otherwise() -> None:
    assert Principal("ann").expires_at_s is None
