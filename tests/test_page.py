"""The page in a real browser: it needs no network, reports no error, and fits a phone."""

import shutil

import numpy as np
import pytest

import uncollapse as uc
from uncollapse.diagnostics import render_page

pytestmark = pytest.mark.browser
CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        instance = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Two models on tiny images, one of them with labels that try to break out."""
    generator = np.random.default_rng(0)
    X = generator.uniform(size=(60, 12))
    labels = np.array(["</script>", "b", "c"])[generator.integers(0, 3, size=60)]
    reports = [
        uc.diagnose(
            uc.VAE(
                latent_dim=4,
                inverse_lipschitz=constant,
                hidden=(8, 8),
                max_epochs=2,
                random_state=0,
            ).fit(X),
            X,
            labels,
            name=f"L = {constant}",
            image_shape=(3, 4),
        )
        for constant in (None, 1.0)
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(reports, "A title", ["A paragraph."]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def comparison_file(tmp_path_factory):
    """A comparison of two models, and of one that fails."""
    X = np.random.default_rng(0).uniform(size=(60, 12))
    settings = {
        "hidden": (8, 8),
        "max_epochs": 2,
        "posterior": "realnvp",
        "latent_dim": 2,
        "verbose": False,
    }
    found = uc.compare(
        X,
        X,
        ["a", "b", "c"] * 20,
        models=["VAE", "IL-LIDVAE", "SA-VAE"],
        image_shape=(3, 4),
        **settings,
    )
    return found.to_html(tmp_path_factory.mktemp("page") / "comparison.html")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
@pytest.mark.parametrize(
    ("file", "n_rows", "n_strips"), [("page_file", 17, 13), ("comparison_file", 2 * 3, 5)]
)
def test_page_opens_alone_and_fits(browser, request, file, n_rows, n_strips, width, scheme):
    page_file = request.getfixturevalue(file)
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(page_file.as_uri(), wait_until="load")
    page.wait_for_function("document.querySelectorAll('.plotly-graph-div .main-svg').length > 0")
    outside = [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == []
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.wait_for_function(  # the plots follow the grid once the page has loaded
        """() => [...document.querySelectorAll('.panel')].every(panel =>
            [...panel.querySelectorAll('.main-svg')].every(svg =>
                svg.getBoundingClientRect().width <= panel.clientWidth + 1))""",
        timeout=5000,
    )
    assert page.locator("main > .table tbody tr").count() == n_rows
    assert page.locator(".panel .bars").count() == 2
    assert page.locator(".strip img").count() == n_strips
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in ground[4:-1].split(",")) < 3 * 128) == (scheme == "dark")
    context.close()


def test_the_table_of_units_sorts(browser, page_file):
    page = browser.new_page()
    page.goto(page_file.as_uri(), wait_until="load")
    tables = page.locator("table.sortable")
    assert tables.count() == 2
    table = tables.first

    def column(number):
        return [
            float(cell.get_attribute("data-value"))
            for cell in table.locator(f"tbody td:nth-child({number})").all()
        ]

    shares, kl = column(4), column(2)
    assert shares == sorted(shares, reverse=True)
    assert len(set(kl)) > 2
    heading = table.get_by_role("button", name="KL, nats")
    for order in ("descending", "ascending"):
        heading.click()
        assert table.locator("th").nth(1).get_attribute("aria-sort") == order
        assert column(2) == sorted(kl, reverse=order == "descending")
    assert [cell.inner_text() for cell in table.locator("tbody td:nth-child(1)").all()] != [
        "0",
        "1",
        "2",
        "3",
    ]
    page.close()
