"""What Prometheus reads of a server."""

from speechnar.serve.metrics import Metrics


def test_counters_are_those_of_one_server_and_gauges_show_what_is():
    one, other, waiting = Metrics(), Metrics(), []
    one.audio_seconds.labels("transcribe").inc(2.5)
    one.requests.labels("/v1/models", "GET", "200").inc()
    with one.latency.labels("speak").time():
        pass
    one.watch("speechnar_waiting", "Who waits.", lambda: len(waiting))
    waiting.append("somebody")
    text = one.render().decode()
    assert 'speechnar_audio_seconds_total{task="transcribe"} 2.5' in text
    assert 'speechnar_requests_total{method="GET",route="/v1/models",status="200"} 1.0' in text
    assert 'speechnar_latency_seconds_bucket{le="0.1",task="speak"} 1.0' in text
    assert "speechnar_waiting 1.0" in text
    assert "speechnar_audio_seconds_total{" not in other.render().decode()
