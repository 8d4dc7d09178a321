"""What people see of a search in MLflow's UI, in a real browser: Chromium without a window."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from search import api
from search.saved_views import runs_address
from tests.chromium import NoBrowserError, chromium, mlflow_ui, rows
from tests.search.showcase import Showcase, a_showcase, promoted

pytestmark = pytest.mark.browser

TRIALS = 40
LOADED_MS = 30_000
"""How long a page may take on a machine that does something else: a limit on hanging, not a measurement."""


@dataclass(frozen=True)
class Ui:
    """A page on a home's MLflow, and the search that the home holds."""

    page: Any
    address: str
    shown: Showcase

    def open(self, view: str) -> Any:
        """Open a view as ``paretune ui --view`` does."""
        _, address = api.ui_command(self.shown.result.name, self.shown.home, 5000, "127.0.0.1", view)
        return self.go(address.partition("/#")[2])

    def go(self, route: str) -> Any:
        """Open a route of the UI as a fresh page: a view that another one is in the way of is not applied."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}#{route.removeprefix('#')}")
        return self.page

    def matching(self, count: int) -> None:
        """Wait until the table of runs says how many it found."""
        self.page.get_by_text(re.compile(rf"^{count} matching runs?$")).wait_for()


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    """One home, one server and one browser for all of them; in CI a missing browser is a failure."""
    home = tmp_path_factory.mktemp("home")
    try:
        with chromium() as context:
            shown = a_showcase(home, TRIALS)
            promoted(shown, "shop", "champion")
            page = context.new_page()
            page.set_default_timeout(LOADED_MS)
            with mlflow_ui(home) as address:
                yield Ui(page, address, shown)
    except NoBrowserError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))


def test_the_run_of_a_search_says_what_was_found_and_leads_on(ui: Ui) -> None:
    page = ui.open("search")
    page.get_by_role("heading", name=ui.shown.result.name).wait_for()
    page.get_by_text("faster than").first.wait_for()
    link = page.get_by_role("link", name="runs of the front").first.get_attribute("href")
    ui.go(str(link).partition("#")[2])
    ui.matching(len(ui.shown.result.front))


def test_the_picture_of_the_front_is_drawn(ui: Ui) -> None:
    page = ui.open("picture")
    plot = page.frame_locator("iframe").locator(".js-plotly-plot")
    plot.locator(".main-svg").first.wait_for()
    plot.locator(".scatterlayer .point").first.wait_for()
    assert plot.locator(".scatterlayer .point").count() >= len(ui.shown.result.front)
    assert "best" in str(plot.text_content())


def test_how_it_went_is_drawn_with_the_worth_of_every_factor(ui: Ui) -> None:
    page = ui.open("story")
    frame = page.frame_locator("iframe")
    frame.get_by_text("What each factor is worth").wait_for()
    frame.locator(".barlayer .point").first.wait_for()
    assert frame.locator(".js-plotly-plot .main-svg").first.is_visible()


def test_the_view_of_the_front_lists_its_trials_best_first(ui: Ui) -> None:
    page = ui.open("front")
    front = ui.shown.result.front
    ui.matching(len(front))
    assert rows(page).count() == len(front)
    labels = [page.get_by_role("link", name=trial.label, exact=True).bounding_box() for trial in front]
    heights = [box["y"] for box in labels if box is not None]
    assert len(heights) == len(front) and heights == sorted(heights)
    page.get_by_text("throughput/per_s").first.wait_for()


def test_the_view_of_all_trials_has_no_parents_among_them(ui: Ui) -> None:
    ui.open("trials")
    ui.matching(len(ui.shown.trials))


@pytest.mark.parametrize(
    ("facet", "value"),
    [("backend", "openvino"), ("outcome", "rejected"), ("feasible", "true"), ("structure", "channel"),
     ("scheme", "static_int8"), ("pareto", "true"), ("outcome", "failed")],
)  # fmt: skip
def test_a_filter_on_a_facet_finds_the_trials_that_have_it(ui: Ui, facet: str, value: str) -> None:
    having = [trial for trial in ui.shown.trials if _facets(trial)[facet] == value]
    assert 0 < len(having) < len(ui.shown.trials)
    experiment = _experiment(ui)
    condition = (f"tags.`paretune.search` = '{ui.shown.result.search}' and tags.`paretune.kind` = 'trial' "
                 f"and tags.`paretune.{facet}` = '{value}'")  # fmt: skip
    order = quote("metrics.`latency/p50_ms`", safe="")
    ui.go(f"/experiments/{experiment}/runs?workflowType=machine_learning&searchFilter={quote(condition, safe='')}"
          f"&orderByKey={order}&orderByAsc=true")  # fmt: skip
    ui.matching(len(having))


def test_the_front_is_compared_side_by_side(ui: Ui) -> None:
    page = ui.open("compare")
    front = ui.shown.result.front
    page.get_by_text(f"Comparing {len(front)} Runs").wait_for()
    for trial in front:
        page.get_by_text(trial.label, exact=True).first.wait_for()


def test_the_best_says_how_to_promote_it(ui: Ui) -> None:
    page = ui.open("best")
    best = ui.shown.result.best
    assert best is not None
    page.get_by_role("heading", name=best.label).wait_for()
    page.get_by_text("paretune promote").first.wait_for()
    page.get_by_text("fashion-mnist-resnet8-validation").first.wait_for()


def test_a_promoted_version_shows_its_card_and_its_alias(ui: Ui) -> None:
    page = ui.go("/models/shop/versions/1")
    page.get_by_text("shop@champion").first.wait_for()
    page.get_by_text("No sealed test split").first.wait_for()
    page.get_by_text("champion", exact=False).nth(1).wait_for()


def test_the_table_of_trials_is_a_table(ui: Ui) -> None:
    page = ui.go(f"{_picture_route(ui).replace('front.html', 'trials.json')}")
    page.get_by_role("columnheader", name="label").or_(page.get_by_text("label", exact=True)).first.wait_for()


def _experiment(ui: Ui) -> str:
    return _picture_route(ui).split("/")[2]


def _picture_route(ui: Ui) -> str:
    _, address = api.ui_command(ui.shown.result.name, ui.shown.home, 5000, "127.0.0.1", "picture")
    return address.partition("/#")[2]


def _facets(trial: Any) -> dict[str, str]:
    candidate = trial.candidate
    return {
        "backend": candidate.backend, "outcome": trial.outcome, "feasible": str(trial.feasible).lower(),
        "structure": candidate.pruning.structure, "scheme": candidate.quantization.scheme,
        "pareto": str(trial.pareto).lower(),
    }  # fmt: skip


def test_all_runs_of_a_search_are_found_where_no_view_is_asked_for(ui: Ui) -> None:
    page = ui.go(runs_address(_experiment(ui), ui.shown.result.search))
    page.get_by_role("link", name=ui.shown.result.name, exact=True).first.wait_for()
