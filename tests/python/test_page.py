"""`exp.show()`: the page of a run in a frame, from a server that ends with its process."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

import monarch_like as ml
from processes import Programs, is_alive, until


def ask(url: str) -> tuple[Any, str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer), answer.headers["content-security-policy"]


def test_the_page_of_a_run_is_shown_in_a_frame(programs: Programs) -> None:
    done = programs.run(
        """
        import json, sys, urllib.request
        import monarch_like as ml
        from monarch_like import _page
        exp = ml.init("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.log_metrics({"loss": 0.5}, step=1)
        exp.flush().wait()
        page = exp.show(height=321)
        again = exp.show()
        assert page.url == again.url
        base, key = page.url.split("/#/run/")
        with urllib.request.urlopen(f"{base}/api/runs/{key}") as answer:
            detail = json.load(answer)
            policy = answer.headers["content-security-policy"]
        server = _page._servers[list(_page._servers)[0]]._process.pid
        frame = page._repr_html_()
        print(json.dumps([detail["name"], exp.run_name, policy, frame, page.url, server]))
        """
    )
    assert done.returncode == 0, done.stderr
    name, run_name, policy, frame, url, server = json.loads(done.stdout.splitlines()[-1])
    assert name == run_name
    assert "frame-ancestors 'self' http://localhost:*" in policy
    assert f'src="{url}"' in frame
    assert 'height="321"' in frame
    until(lambda: not is_alive(server), what="the server's end")
    with pytest.raises(urllib.error.URLError):
        ask(url.split("#")[0] + "api/health")


def test_a_killed_process_takes_its_server_along(programs: Programs) -> None:
    done = programs.run(
        """
        import os, signal, sys
        import monarch_like as ml
        from monarch_like import _page
        exp = ml.init("exp", base_dir=sys.argv[1], redirect_console=False)
        exp.show()
        print(_page._servers[list(_page._servers)[0]]._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert done.returncode == -9, done.stderr
    server = int(done.stdout.split()[-1])
    until(lambda: not is_alive(server), what="the server's end")


def test_below_a_proxy_the_frame_goes_by_its_path(
    exp: ml.Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/me/")
    page = exp.show()
    port = page.url.split(":")[2].split("/")[0]
    assert f'src="/user/me/proxy/{port}/#/run/' in page._repr_html_()
    named = exp.show(proxy="https://x.example/{port}")
    assert f'src="https://x.example/{port}/#/run/' in named._repr_html_()


@pytest.mark.parametrize(
    "options", [{"height": 1}, {"height": True}, {"height": "a"}, {"proxy": "/x"}]
)
def test_what_makes_no_sense_is_named(exp: ml.Experiment, options: dict[str, Any]) -> None:
    with pytest.raises(ml.ConfigError, match=next(iter(options))):
        exp.show(**options)
