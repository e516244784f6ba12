"""`python -m pi_orchestrator` is the `pi-orchestrator` command."""

import sys

from pi_orchestrator.app.main import main

sys.exit(main())
