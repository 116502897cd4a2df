"""The page of a report in a browser: whole, from disk, without a network, on a screen and on a phone."""

import front_ends
import pytest
import torch

import ncbook


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (120, 1, 16, 16), generator=generator).to(torch.uint8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 12))
    found = ncbook.report(model, (images, torch.arange(120) % 10), episodes=200)
    address = found.to_html(tmp_path_factory.mktemp("page") / "report.html").as_uri()
    page = front_ends.open_page(chromium, "about:blank")
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    yield page
    page.context.close()


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_is_whole_and_needs_nothing(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # no scrolling sideways
    pictures = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(pictures) > 3 and all(pictures)
    for link in page.query_selector_all("a[href^='#']"):
        assert page.query_selector(link.get_attribute("href"))
    others = [url for url in page.requests if not url.startswith(("file:", "data:"))]
    assert not others and not page.errors
