"""Questions to a running server of `ferdistill serve`."""

import http.client

from ferdistill.faces import server


def ask(listening, path, method="GET", host=None):
    """Send `path` as it stands: urllib would tidy it first."""
    connection = http.client.HTTPConnection(server.HOST, listening.server_port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    host = f"127.0.0.1:{listening.server_port}" if host is None else host
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body
