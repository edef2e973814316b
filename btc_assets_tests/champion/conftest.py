"""The labelled rows of the learning tests."""

from btc_assets_tests.learning.conftest import rows

__all__ = ["rows"]
