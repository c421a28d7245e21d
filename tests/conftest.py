"""For all tests."""

import hypothesis

# A busy machine makes single examples slow; that is no failure. The timeout of pytest still holds.
hypothesis.settings.register_profile("swell", deadline=None)
hypothesis.settings.load_profile("swell")
