"""systemd: a unit that runs `portside serve`, which makes what the engine loads, proves it and tells systemd.

The unit is active once the answers are proven (Type=notify). A failed proof or a bad checkpoint is not tried
again; an engine that died is, later each time. Does not know engines.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from deploy.engines.base import ServeRequest
from deploy.manifests.deployment import Deployment

__all__ = ["installed_systemd", "systemd_unit"]

PREPARING = 900
"""Seconds beyond the engine's own: a GGUF file may have to be made first, and the answers are proven last."""
STEPS_SINCE = 254
"""The version of systemd that knows delays which grow."""
PASSED_ON = (
    "PORTSIDE_VLLM",
    "PORTSIDE_LMDEPLOY",
    "PORTSIDE_OLLAMA",
    "PORTSIDE_LLAMA_SERVER",
    "PORTSIDE_LLAMA_CPP_PYTHON",
)


def systemd_unit(deployment: Deployment, request: ServeRequest, version: int) -> str:
    """Return the text of the unit for systemd `version`."""
    name = deployment.name
    command = [portside_program(), *_arguments(deployment, request)]
    key = deployment.key is not None
    engines = [
        f"Environment={variable}={os.environ[variable]}" for variable in PASSED_ON if variable in os.environ
    ]
    unit = {
        "Unit": [
            f"Description={deployment.plan.name} on {request.engine}, proven by Portside",
            "After=network-online.target",
            "Wants=network-online.target",
            "StartLimitIntervalSec=0",
        ],
        "Service": [
            "Type=notify",
            "NotifyAccess=main",
            f"ExecStart={_escaped(command)}",
            *([f"LoadCredential=api-key:/etc/portside/{name}.key"] if key else []),
            f"TimeoutStartSec={deployment.startup_seconds + PREPARING}",
            "TimeoutStopSec=60",
            "KillMode=control-group",
            *_restarts(version),
            "CacheDirectory=portside",
            "Environment=PORTSIDE_CACHE=%C/portside HOME=%C/portside PYTHONUNBUFFERED=1",
            *engines,
            *_HARDENING,
        ],
        "Install": ["WantedBy=multi-user.target"],
    }
    return "\n\n".join("\n".join([f"[{section}]", *lines]) for section, lines in unit.items()) + "\n"


def portside_program() -> str:
    """Return the path of the command `portside` of this environment."""
    return str(Path(sys.executable).with_name("portside"))


def installed_systemd() -> int:
    """Return this machine's version of systemd; where there is none, one that knows no growing delays."""
    try:
        done = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, check=False, timeout=10
        )
        return int(done.stdout.split()[1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return STEPS_SINCE - 1


def _escaped(command: list[str]) -> str:
    """Return the command line; % and $ mean something to systemd, except where the key is."""
    line = shlex.join(command).replace("%", "%%").replace("$", "$$")
    return line.replace(_KEY_MARK, _KEY_FILE)


_KEY_MARK = "@KEY@"
_KEY_FILE = "%d/api-key"
"""The credential, which only this service sees."""

_HARDENING = (
    "DynamicUser=yes",
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "PrivateTmp=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
    "CapabilityBoundingSet=",
    "UMask=0077",
    "LimitNOFILE=1048576",
    "LimitMEMLOCK=infinity",
)
"""Without PrivateDevices and MemoryDenyWriteExecute: GPUs are devices, and engines compile kernels."""


def _arguments(deployment: Deployment, request: ServeRequest) -> list[str]:
    gguf = request.engine in ("llamacpp", "ollama")
    return [
        *("serve", request.engine, deployment.checkpoint_path),
        *("--host", request.host, "--port", str(deployment.port), "--name", deployment.plan.name),
        *(("--template", request.source) if request.source != "checkpoint" else ()),
        *(("--type", request.gguf_type) if gguf else ()),
        *(("--api-key-file", _KEY_MARK) if deployment.key else ()),
        *(("--", *request.engine_args) if request.engine_args else ()),
    ]


def _restarts(version: int) -> list[str]:
    grows = ["RestartSteps=8", "RestartMaxDelaySec=300"] if version >= STEPS_SINCE else []
    return ["Restart=on-failure", "RestartSec=10", *grows, "RestartPreventExitStatus=1 2 3 4"]
