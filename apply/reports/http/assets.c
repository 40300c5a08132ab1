/* assets: embedded at build (Makefile has what this object depends on). */
#include "apply/reports/http/assets.h"

#include "proto/base/embed.h"

EMBED(asset_page, "apply/reports/console/index.html");
EMBED(asset_style, "apply/reports/console/console.css");
EMBED(asset_script, "apply/reports/console/console.js");
EMBED(asset_document, "apply/reports/console/openapi.json");
