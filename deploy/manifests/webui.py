"""Open WebUI beside an engine, for compose and Kubernetes alike. Does not know YAML."""

from __future__ import annotations

from deploy.manifests.deployment import Deployment
from deploy.webui.settings import IMAGE, webui_settings

__all__ = ["IMAGE", "PORT", "webui_env"]

PORT = 8080


def webui_env(deployment: Deployment, base_url: str) -> dict[str, str]:
    """Return its settings without the key: where there is one, it is the engine's."""
    env = webui_settings([base_url], [None], login=True, model=deployment.plan.name)
    if deployment.key:
        del env["OPENAI_API_KEYS"]
    return env
