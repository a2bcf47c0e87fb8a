// Starts Swagger on our OpenAPI document. A file of its own, because the page's policy refuses inline scripts.
"use strict";

async function start() {
  const spec = await (await fetch("openapi.json")).json();
  document.title = spec.info.title;
  const base = new URL(".", location.href);
  if (base.pathname !== "/") spec.servers ??= [{ url: base.href.replace(/\/$/, "") }]; // behind a path prefix
  SwaggerUIBundle({ spec, dom_id: "#swagger-ui", deepLinking: true, displayRequestDuration: true, validatorUrl: null });
}

start();
