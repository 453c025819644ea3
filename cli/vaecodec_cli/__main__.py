"""``python -m vaecodec_cli`` is the console script ``vaecodec``."""

from vaecodec_cli.main import main

main()
