"""Signed URLs over HTTP: GET and HEAD /media/<token>, in ranges.

A token that `sign` made comes in; the piece goes out, as what it is and nothing else (its type by content, no sniffing, no scripts).
Every reason not to give it is the same 404: forged, expired, deleted. Tokens are secrets, so there is no access log. In a cloud the
store's own signed URLs are given instead, and nothing comes here.
"""

from aiohttp import web

from darkroom import clock, errors
from darkroom.media_store import domain, sign, sniff, store

_INLINE = ("image/", "video/", "audio/")


class Files:
    """The HTTP side of media_store."""

    def __init__(self, media: store.Store, signer: sign.Signer) -> None:
        self._media = media
        self._signer = signer

    def application(self) -> web.Application:
        """The aiohttp application with its one route."""
        application = web.Application()
        application.router.add_get("/media/{token}", self.read, allow_head=True)
        return application

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Answer one URL: 200, 206 for a range, 416 for one outside, 404, or 503 while the database is away."""
        media = await self._find(request.match_info["token"])
        begin, end = _range(request, media.size_bytes)
        response = web.StreamResponse(headers=_headers(media))
        response.content_length = end - begin
        if (begin, end) != (0, media.size_bytes):
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {begin}-{end - 1}/{media.size_bytes}"
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in self._media.read(media, offset_bytes=begin, size_bytes=end - begin):
                await response.write(chunk)
        await response.write_eof()
        return response

    async def _find(self, token: str) -> domain.Media:
        signed = self._signer.read(token, now=clock.utc_now())
        if signed is None:
            raise web.HTTPNotFound
        try:
            return await self._media.get(signed.tenant_id, signed.media_id)
        except errors.NotFound as error:
            raise web.HTTPNotFound from error
        except errors.Unavailable as error:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"}) from error


def _range(request: web.Request, size_bytes: int) -> tuple[int, int]:
    """The bytes asked for, [begin, end); all of them when the header is missing or makes no sense (RFC 9110, 14.2)."""
    try:
        asked = request.http_range
    except ValueError:
        return 0, size_bytes
    begin, end, _ = asked.indices(size_bytes)
    if begin >= end:
        raise web.HTTPRequestRangeNotSatisfiable(headers={"Content-Range": f"bytes */{size_bytes}"})
    return begin, end


def _headers(media: domain.Media) -> dict[str, str]:
    disposition = "inline" if media.media_type.startswith(_INLINE) else "attachment"
    return {
        "Content-Type": media.media_type,
        "Content-Disposition": f'{disposition}; filename="{media.media_id}.{sniff.EXTENSIONS[media.media_type]}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "bytes",
        "ETag": f'"{media.sha256}"',
        "Cache-Control": "private, no-cache",
    }
