/* assets: the page's files and the API's document, as they are in apply/reports/console/. */
#ifndef APPLY_REPORTS_HTTP_ASSETS_H
#define APPLY_REPORTS_HTTP_ASSETS_H

extern const char asset_page[], asset_style[], asset_script[], asset_document[];

#endif
