"""What is not looked through for doctests: modules that import a framework, which may not be there, and have none."""

collect_ignore = [
    "approx_is/integrations/lightning.py",
    "approx_is/integrations/transformers.py",
    "tests/typed_user.py",
]
