"""The Celery app under a name, for tools that load one by name: ``celery -A workers.monitored flower``.

The broker is ``$PARETUNE_BROKER``. No part of paretune imports this module.
"""

from __future__ import annotations

import os

from workers.celery_app import make_app

app = make_app(os.environ.get("PARETUNE_BROKER", ""))
