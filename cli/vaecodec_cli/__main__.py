"""Run the console script ``vaecodec`` as ``python -m vaecodec_cli``."""

from vaecodec_cli.main import main

main()
