"""Read manifests as Kubernetes and Ray do; runs in the environment that has their schemas.

    python read_manifests.py FILE…

Every object is compared with its published schema, a Pod inside of one that has none as a Pod, what Ray
Serve is told with Ray's own model. Prints one JSON object: what was read, by file. Fails at the first that is
wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from ray.serve.schema import ServeDeploySchema

VERSION = kubernetes_validate.latest_version()


def read(found: dict[str, Any]) -> list[str]:
    """Return the kinds that were compared with a schema."""
    spec = found.get("spec", {})
    if found["kind"] == "RayService":
        ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
        cluster = spec["rayClusterConfig"]
        templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return ["ServeDeploySchema", *(_pod(group["template"]) for group in templates)]
    if found["kind"] == "LeaderWorkerSet":
        group = spec["leaderWorkerTemplate"]
        return [_pod(group["leaderTemplate"]), _pod(group["workerTemplate"])]
    kubernetes_validate.validate(found, VERSION, strict=True)
    return [str(found["kind"])]


def _pod(template: dict[str, Any]) -> str:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, VERSION, strict=True)
    return "Pod"


def main(files: list[str]) -> None:
    seen = {}
    for file in files:
        objects = list(yaml.safe_load_all(Path(file).read_text(encoding="utf-8")))
        seen[Path(file).name] = [kind for found in objects for kind in read(found)]
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
