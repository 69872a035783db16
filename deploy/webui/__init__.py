"""Open WebUI before running servers: found, installed, wired, started and ended here; or set up elsewhere."""

from deploy.webui.environment import find_webui, plan_webui_install
from deploy.webui.plan import WebuiPlan, plan_webui
from deploy.webui.run import WebuiView, run_webui
from deploy.webui.settings import elsewhere, webui_settings
from deploy.webui.upstreams import Upstream, connect

__all__ = [
    "Upstream",
    "WebuiPlan",
    "WebuiView",
    "connect",
    "elsewhere",
    "find_webui",
    "plan_webui",
    "plan_webui_install",
    "run_webui",
    "webui_settings",
]
