"""At home in training frameworks: a module for each, which imports it; nothing else does."""
