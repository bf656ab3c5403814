"""`python -m lit_mnist`."""

import sys

from lit_mnist.cli.main import main

sys.exit(main())
