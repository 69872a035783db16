"""Environments of engines, made by Portside: what is run, decided first and then done.

`plan` knows which build fits the machine, `environment` runs pip, `download` and `release` fetch Ollama.
"""

from __future__ import annotations

from deploy.install.plan import INSTALLABLE, InstallPlan, plan_install
from deploy.install.run import Installed, InstallView, run_install

__all__ = ["INSTALLABLE", "InstallPlan", "InstallView", "Installed", "plan_install", "run_install"]
