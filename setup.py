"""What setup.cfg cannot say: that the configs, which lie beside the package, are a part of it where it is installed."""

from setuptools import find_packages, setup

PACKAGES = find_packages(include=["ldm_jax", "ldm_jax.*"])

setup(packages=[*PACKAGES, "ldm_jax.configs"], package_dir={"ldm_jax.configs": "configs"})
