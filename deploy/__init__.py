"""Launching engines, and proving that they answer as the model was trained.

`plan_serving` decides everything, `serve_in_foreground` does it, `check_health` judges any running server.
"""

from deploy.engines import EngineFound, ServePlan, ServeRequest, detect_engines, plan_serving
from deploy.health import check_health
from deploy.process import EngineProcess
from deploy.report import HealthReport, Rung
from deploy.restarts import Restarts
from deploy.supervise import View, serve_in_foreground

__all__ = [
    "EngineFound",
    "EngineProcess",
    "HealthReport",
    "Restarts",
    "Rung",
    "ServePlan",
    "ServeRequest",
    "View",
    "check_health",
    "detect_engines",
    "plan_serving",
    "serve_in_foreground",
]
