"""The configs and jobs of the checkout travel in the package: `muloco train laptop/muloco` works from a wheel."""

from setuptools import find_packages, setup

SHIPPED = {"muloco.recipes.config": "config", "muloco.recipes.jobs": "jobs"}

setup(
    packages=[*find_packages(include=["muloco*"]), *SHIPPED],
    package_dir={package: folder for package, folder in SHIPPED.items()},
    package_data={
        "muloco": ["py.typed"],
        "muloco.sweeps": ["templates/*"],
        "muloco.recipes.config": ["*/*.py"],
        "muloco.recipes.jobs": ["*/*.py", "*/*.sh", "*/*.toml", "*.example", "*.sh"],
    },
)
