"""Test report.html in a real browser."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from pypdf import PdfReader

from vaecodec_integrations.report import ReportData, measure, summarise, write
from vaecodec_integrations.report.engines import open_engine
from vaecodec_integrations.report.engines.base import SearchEngineName
from vaecodec_integrations.report.markdown import markdown
from vaecodec_integrations.report.page import page
from vaecodec_integrations.report.picture import Picture, pictures
from vaecodec_integrations.report.run import Role
from vaecodec_integrations.report.tables import Table

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

PHONE = """<!DOCTYPE html><body><iframe src="report.html" width="390" height="800"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => { document.body.dataset.width = frame.contentDocument.documentElement.scrollWidth; };
</script></body>"""


SCROLLED = """<!DOCTYPE html><body><iframe src="report.html" width="390" height="800"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => {
  const area = frame.contentDocument.querySelector("table.decisive").parentElement;
  area.scrollLeft = 10000;
  const cells = area.querySelectorAll("tbody tr:first-child > *");
  const edges = [cells[0], cells[1], cells[cells.length - 1]].map(cell => cell.getBoundingClientRect().left);
  document.body.dataset.edges = edges.join(" ");
};
</script></body>"""


@pytest.fixture(scope="module")
def report(sample, svd_codec, tmp_path_factory):
    """Write a report; return its folder and its summary."""
    codec = svd_codec.truncated(32)
    data = ReportData(
        base=sample.base[:600], queries=sample.queries[:60], relevant=[[0]] * 60, labels=["<b>&amp;"] * 60
    )
    run = measure(data, {"svd32.onnx": codec}, open_engine(SearchEngineName.EXACT))
    summary = summarise(run, run)
    folder = tmp_path_factory.mktemp("report")
    write(folder, run, summary)
    return folder, summary


def browse(path: Path, *options: str) -> tuple[str, list[str]]:
    """Return the document after scripts have run, and what the console said."""
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={path.parent / 'profile'}", "--allow-file-access-from-files", *options]
    result = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=600, check=True)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def test_nothing_is_fetched(report):
    text = (report[0] / "report.html").read_text()
    assert not re.search(r"(src|srcset|href)=\"(?!data:)|url\(|@import|<script", text)
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        assert b"<svg" in base64.b64decode(svg)[:1000]
    assert text.count("data:image/svg+xml") == 4, "two pictures, each for a light and a dark page"


def test_text_cannot_break_the_page():
    table = Table("<t>", "<n>", ("<c>", ""), [("<r>", "1 [<a>]")])
    picture = Picture("name", "<c>", '"<p>"', b"<svg/>", b"<svg/>", b"")
    text = page("<i>&", ["<v>"], [table], [picture])
    assert not re.search(r"<[itncrav]>", text)
    assert 'alt="&#34;&lt;p&gt;&#34;"' in text


def test_names_of_files_may_hold_any_bytes(report):
    """A codec is called by its file: names there are bytes, and control characters are no XML."""
    odd, shown = "a\udcff\x1b[2J$x$", r"a\udcff\x1b[2J$x$"
    _, summary = report
    methods = [replace(m, name=odd) if m.role is Role.CODEC else replace(m, of=m.of and odd) for m in summary.methods]
    recall, losses = pictures(replace(summary, methods=methods))
    for picture in (recall, losses):
        assert shown in picture.shows
        assert shown in "".join(ElementTree.fromstring(picture.dark).itertext())
    table = Table(odd, odd, (odd, ""), [(odd, odd)])
    assert page(odd, [odd], [table], [recall]).encode().count(shown.encode()) == 10
    assert b"\x1b" not in markdown(odd, [odd], [table], [("a.png", odd)]).encode()


def test_a_name_near_the_right_edge_of_a_picture_stands_on_the_left(report):
    _, summary = report
    for size, left in ((100, False), (1_000, True)):
        rivals = [replace(rival, bytes_per_vector=size) for rival in summary.rivals if rival.untrained]
        svg = pictures(replace(summary, rivals=rivals))[0].light.decode()
        (style,) = re.findall(r'<text style="([^"]*)"[^>]*>untrained [^<]*</text>', svg)
        assert ("text-anchor: end" in style) is left, size


def test_only_long_tables_may_be_divided_between_pages():
    tables = [Table("t", "", ("c", "d"), [("r", "1")] * rows) for rows in (10, 11)]
    sections = re.findall(r"<section[^>]*>", page("h", [], tables, []))
    assert sections == ["<section>", '<section class="long">']
    assert "section:not(.long), tr, figure, h1 { break-inside: avoid; }" in page("h", [], tables, [])


@pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome on the PATH")
class TestInABrowser:
    def test_shows_every_figure_and_the_console_stays_silent(self, report):
        folder, summary = report
        document, console = browse(folder / "report.html", "--dump-dom")
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", document))
        assert console == []
        assert re.search(r"<h1>(.*?)</h1>", document)[1] == summary.headline
        assert all(verdict.text in text for verdict in summary.verdicts)
        for method in summary.methods:
            assert f"{method.metrics['kept@100'].mean:.3f}" in text
            for value in (value for metric, value in method.metrics.items() if metric != "kept@100"):
                assert f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]" in text
        assert "&lt;b&gt;&amp;amp;" in document
        assert "What changed since the earlier report" in text

    def test_a_console_message_would_be_seen(self, tmp_path):
        (tmp_path / "loud.html").write_text("<script>console.error('heard')</script>")
        assert "heard" in browse(tmp_path / "loud.html", "--dump-dom")[1][0]

    def test_fits_a_phone(self, report):
        folder, _ = report
        (folder / "phone.html").write_text(PHONE)
        document, _ = browse(folder / "phone.html", "--dump-dom")
        assert int(re.search(r'data-width="(\d+)"', document)[1]) <= 390

    def test_every_column_is_on_paper(self, report):
        folder, summary = report
        browse(folder / "report.html", "--no-pdf-header-footer", f"--print-to-pdf={folder / 'report.pdf'}")
        pages = [page.extract_text() for page in PdfReader(folder / "report.pdf").pages]
        assert min(map(len, pages[:-1])) > 500, "a page that is nearly empty"
        text = " ".join(" ".join(pages).split())
        widest = text[text.index("What is found") : text.index("In as many bytes")]
        # What lies beyond the edge of the paper is not in the file.
        assert " worst tenth " in widest
        values = [
            value
            for method in summary.methods
            for metric, interval in method.metrics.items()
            if metric != "kept@100"
            for value in interval
        ]
        values += [method.worst_decile for method in summary.methods]
        assert sorted(re.findall(r"\d\.\d{3}", widest)) == sorted(f"{value:.3f}" for value in values)

    def test_the_decisive_column_stays_in_view_on_a_phone(self, report):
        """Scrolled to the end, the second column still stands right of the names."""
        folder, _ = report
        (folder / "scrolled.html").write_text(SCROLLED)
        document, _ = browse(folder / "scrolled.html", "--dump-dom")
        name, decisive, last = map(float, re.search(r'data-edges="([^"]*)"', document)[1].split())
        assert name >= 0
        assert name < decisive < last
        assert decisive < 195, "not in the left half"

    def test_scroll_areas_are_reached_by_keyboard_and_pictures_are_told(self, report):
        folder, summary = report
        text = (folder / "report.html").read_text()
        areas = re.findall(r'<div class="scroll"([^>]*)>', text)
        assert len(areas) > 6
        assert all('tabindex="0"' in area and 'role="region"' in area and "aria-label=" in area for area in areas)
        found = summary.method("svd32.onnx").metrics["recall@10"].mean
        alts = re.findall(r'alt="([^"]*)"', text)
        assert len(alts) == 2
        assert all(f"svd32.onnx {found:.3f}" in alt for alt in alts)

    def test_draws_the_pictures(self, report):
        folder, _ = report
        browse(folder / "report.html", f"--screenshot={folder / 'shot.png'}", "--window-size=800,1000")
        colours = Image.open(folder / "shot.png").convert("RGB").getcolors(1 << 20)
        shares = {colour: count for count, colour in colours}
        assert shares[10, 61, 44] > 2_000  # what is found, in the bars
