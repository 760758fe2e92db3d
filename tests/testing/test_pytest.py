"""The fixtures for pytest, in a project that uses them."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MODULE = """\
import os
import bgd

@bgd.job
def process_id():
    return os.getpid()

@bgd.job
def fail():
    raise LookupError("no such letter")
"""

CONFTEST = """\
pytest_plugins = ["bgd.testing.pytest"]
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(letters=MODULE)
    pytester.makeconftest(CONFTEST)
    return pytester


def test_jobs_run_inline_and_each_test_sees_its_own_jobs(project):
    project.makepyfile("""
        import os
        import letters

        def test_first(bgd_inline):
            assert letters.process_id.submit().result() == os.getpid()
            assert len(bgd_inline.submitted) == 1

        def test_second(bgd_inline):
            assert bgd_inline.submitted == []
    """)

    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_test_fails_if_a_job_failed_unseen(project):
    project.makepyfile("""
        import letters

        def test_hands_over(bgd_inline):
            letters.fail.submit()
    """)
    ended = project.runpytest_subprocess()

    ended.assert_outcomes(failed=1)
    ended.stdout.fnmatch_lines(["*JobFailed: *LookupError: no such letter*", "*in fail*"])


def test_a_failure_is_reported_once_with_the_line_of_the_test_alone(project):
    project.makepyfile("""
        import letters

        def test_asserts(bgd_inline):
            letters.fail.submit()
            bgd_inline.assert_submitted(letters.process_id)

        def test_waits(bgd_inline):
            letters.fail.submit().result()
    """)
    ended = project.runpytest_subprocess("--tb=short")

    ended.assert_outcomes(failed=2)
    frames = [line for line in ended.outlines if ": in " in line]
    assert [line.partition(": in ")[2] for line in frames] == ["test_asserts", "test_waits"]
    ended.stdout.fnmatch_lines(["E   AssertionError: letters:process_id was not submitted; *"])


def test_tests_of_a_module_share_a_daemon_that_the_project_configures(project):
    project.makeconftest(
        CONFTEST
        + """
import pytest

@pytest.fixture(scope="module")
def bgd_allowed():
    return ["letters.*"]

@pytest.fixture(scope="module")
def bgd_settings():
    return {"daemon": {"slots": 3}}
"""
    )
    project.makepyfile("""
        import os
        import letters

        pids = set()

        def test_first(bgd_daemon):
            assert bgd_daemon.client().info().slots == 3
            assert letters.process_id.submit().result(30) != os.getpid()
            pids.add(bgd_daemon.client().info().pid)

        def test_second(bgd_daemon):
            assert pids == {bgd_daemon.client().info().pid}
    """)

    project.runpytest_subprocess().assert_outcomes(passed=2)


def test_a_daemon_allows_nothing_by_default(project):
    project.makepyfile("""
        import bgd
        import letters
        import pytest

        def test_refused(bgd_daemon):
            with pytest.raises(bgd.NotAllowed):
                letters.process_id.submit()
    """)

    project.runpytest_subprocess().assert_outcomes(passed=1)
