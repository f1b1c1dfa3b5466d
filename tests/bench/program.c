/* SPDX-License-Identifier: Apache-2.0 */
/* What the bench executes. BODY makes it as large as a real program: a digest
 * costs by the byte. */
static const unsigned char body[BODY] __attribute__((used)) = {[0 ... BODY - 1] = 0x5a};

int main(void)
{
	return 0;
}
