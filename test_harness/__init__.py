"""Everything that tries the product from outside; nothing imports it but tests."""
